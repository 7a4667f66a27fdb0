"""What Aforo is compared with: small, honest implementations on the same tables, with the settings their users would pick."""
