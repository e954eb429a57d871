"""What a person sees: tables, bars, quantities, the dashboard."""
