"""What can be read in the code of a network: of its modules before it runs, and in bytecode while it does."""
