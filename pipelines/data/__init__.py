"""Raw documents in, token shards and mixture plans out. Folder order is data order; see docs/design.md."""
