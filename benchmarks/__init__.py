"""Measurements of this project beside a plain implementation and the machine's own limits."""
