"""The wire: the .proto file, its generated stubs, and the conversion between wire and domain types."""
