"""What a report can be about: a module each. Its first line says what; its `evaluate(bench)` gives the report."""
