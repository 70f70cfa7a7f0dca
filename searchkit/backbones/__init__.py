"""Networks that generate a stream chunk by chunk. The package itself imports neither torch nor diffusers."""
