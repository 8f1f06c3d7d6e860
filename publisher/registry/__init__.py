"""What a registry is asked, and how: the only room that speaks HTTP to one."""
