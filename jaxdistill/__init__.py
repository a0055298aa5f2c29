"""Language models that improve themselves."""
