"""What the engines' profiles have in common: a reader of metrics pages, requests held open, makers of cases."""
