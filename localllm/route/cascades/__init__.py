"""How sure a cascade's weak member must be: fitted to judged answers instead of set by hand."""
