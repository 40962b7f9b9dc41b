"""What people's votes say: win rates of pairs, strengths, agreement, and who did not look. Free of I/O."""
