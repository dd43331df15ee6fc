"""The report: reads results of evaluated runs, compares them, draws tables and figures."""
