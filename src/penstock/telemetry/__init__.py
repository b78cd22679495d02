"""What the server reports: the logs, the trace, and the scoreboard in shared memory."""
