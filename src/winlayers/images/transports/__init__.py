"""Where images come from and go to, one module for each kind of place."""
