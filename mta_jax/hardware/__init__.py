"""Facts about accelerators, and TPUs to compile for that need not be there."""
