"""Tests of what makes the image: its scripts, Packer's description of it, the Debian package."""
