"""What every choice of every unit does to the loss, measured."""
