"""What people read: the page, its plots and tables, and the terminal."""
