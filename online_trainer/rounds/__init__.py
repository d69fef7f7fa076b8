"""A synchronous group: every round is one step of all ranks, by torch.distributed."""
