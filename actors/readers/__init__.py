"""What vendors' files, tools and libraries say, turned into values; one probe or more read through each."""
