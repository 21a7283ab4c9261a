def write_deviations(): return ""
