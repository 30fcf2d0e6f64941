"""Tests of how the measurements are made; what they find depends on the machine and is not judged here."""
