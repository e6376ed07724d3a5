"""What a controller keeps: SQLite where nothing is set up, PostgreSQL where several processes share it."""
