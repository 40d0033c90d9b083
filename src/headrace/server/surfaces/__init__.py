"""The protocols that clients speak already, each at the address where its SDK looks for it."""
