"""The three networks of 2DAL: regressor, encoder and critic."""
