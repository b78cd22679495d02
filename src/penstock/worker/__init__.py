"""One process that serves: its main function, its threads and their deadlines."""
