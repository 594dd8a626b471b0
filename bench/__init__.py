"""Measurements that anyone can rerun. They print ratios and tables; nothing here is asserted in tests."""
