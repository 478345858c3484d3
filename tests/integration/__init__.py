"""Filters of ours behind a private Postfix and a private Sendmail: one table of cases for both."""
