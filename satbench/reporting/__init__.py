"""Tables, verdicts, plots, pages and leaderboards as pure functions of records. Never imports torch."""
