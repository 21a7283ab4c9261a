"""The roles of a OneKE service, one module or package each; a role imports no other role."""
