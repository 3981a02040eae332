package main

import "testing"

func TestMedian(t *testing.T) {
	for _, tc := range []struct {
		values []float64
		want   float64
	}{
		{nil, 0},
		{[]float64{7}, 7},
		{[]float64{9, 1}, 5},
		{[]float64{9, 1, 2}, 2},
		{[]float64{4, 1, 100, 2}, 3},
	} {
		given := append([]float64(nil), tc.values...)
		if got := median(tc.values); got != tc.want {
			t.Errorf("median(%v) = %v, want %v", given, got, tc.want)
		}
		for i := range given {
			if tc.values[i] != given[i] {
				t.Fatalf("median reorders its values: %v became %v", given, tc.values)
			}
		}
	}
}

func TestPercentile(t *testing.T) {
	hundred := make([]int, 100)
	for i := range hundred {
		hundred[i] = i + 1
	}
	for _, tc := range []struct {
		sorted []int
		p      float64
		want   int
	}{
		{nil, 50, 0},
		{[]int{3}, 1, 3},
		{[]int{3}, 99, 3},
		{[]int{1, 2, 3, 4}, 50, 2},
		{[]int{1, 2, 3, 4}, 51, 3},
		{hundred, 0, 1},
		{hundred, 50, 50},
		{hundred, 99, 99},
		{hundred, 99.5, 100},
		{hundred, 100, 100},
	} {
		if got := percentile(tc.sorted, tc.p); got != tc.want {
			t.Errorf("percentile(%d values, %v) = %d, want %d", len(tc.sorted), tc.p, got, tc.want)
		}
	}
}

func TestRatioIsTheMedianWithinRepetitions(t *testing.T) {
	// The machine is ten times slower in the second repetition, and the one is always twice the other.
	if got := ratio([]float64{2, 20, 4}, []float64{1, 10, 2}); got != "2.00" {
		t.Errorf("ratio = %s, want 2.00", got)
	}
	if got := ratio([]float64{2, 3}, []float64{0, 1}); got != "–" {
		t.Errorf("a ratio to zero is %s, want a dash", got)
	}
}
