"""Which bits each unit gets: table, menu, costs, budgets, allocation, frontier. Without torch."""
