"""Who is there, who coordinates: identity, discovery, membership and election."""
