package strict

import (
	"strings"
	"unicode/utf8"
)

// Nearest is the candidate that a misspelt name most likely means: the one at the
// smallest Damerau-Levenshtein distance (insertions, deletions, replacements and
// swaps of neighbours, each counting 1; case does not count), if that is small
// for the name's length. A name that is the beginning of exactly one candidate
// means that one, too. Of equals, the first wins.
func Nearest(name string, candidates []string) (string, bool) {
	const longest = 64 // names are short; the distance costs length²
	n := utf8.RuneCountInString(name)
	if n == 0 || n > longest {
		return "", false
	}
	name = strings.ToLower(name)
	best, at, begins := "", 1+max(1, min(n/3, 4)), ""
	for _, c := range candidates {
		if c == "" || utf8.RuneCountInString(c) > longest {
			continue
		}
		lower := strings.ToLower(c)
		if k := distance(name, lower); k < at {
			best, at = c, k
		}
		if n >= 3 && strings.HasPrefix(lower, name) {
			if begins != "" {
				begins = "\x00" // several
			} else {
				begins = c
			}
		}
	}
	switch {
	case best != "":
		return best, true
	case begins != "" && begins != "\x00":
		return begins, true
	}
	return "", false
}

// distance is the restricted Damerau-Levenshtein distance ("optimal string
// alignment"): no part of the text is edited twice. With a and b the texts up to
// i and j,
//
//	d[i][j] = min(d[i-1][j] + 1, d[i][j-1] + 1, d[i-1][j-1] + [a_i ≠ b_j],
//	              d[i-2][j-2] + 1  if a_i = b_{j-1} and a_{i-1} = b_j)
func distance(s, t string) int {
	a, b := []rune(s), []rune(t)
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			replace := last[j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			row[j] = min(last[j]+1, row[j-1]+1, replace)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
