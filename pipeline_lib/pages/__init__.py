"""What pages about a run share: charts, the data's funnel, the style of their templates."""
