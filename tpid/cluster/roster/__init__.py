"""Who belongs to the home: statements signed by user devices, merged in any order to the same."""
