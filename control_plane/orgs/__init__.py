"""Organisations, their members and service accounts, and the policy version that orders every change of them."""
