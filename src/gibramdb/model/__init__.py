"""The vocabulary: frozen values, no behaviour but validation of their own form."""
