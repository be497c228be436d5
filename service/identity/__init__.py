"""Who is calling: any token, tokens of a file, JSON web tokens; and the policy that permits them actions."""
