"""From scores to means, intervals, comparisons and leaderboards."""
