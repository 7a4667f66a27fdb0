"""Pages for people: markup that escapes by itself, the words in both languages, and the booking page's parts."""
