"""A service package that has nothing but the tables of the chassis; for tests of svckit and eventkit."""
