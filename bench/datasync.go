package main

import (
	"fmt"
	"os"
	"slices"
	"time"
)

// A datasyncTime is how long a disk takes to make 4 KiB durable. It bounds any store, and differs a thousandfold between
// machines.
type datasyncTime struct {
	P50 time.Duration `json:"p50_ns"`
	P99 time.Duration `json:"p99_ns"`
}

// measureDatasync measures the disk of dir with 100 writes, or as many as it can in 3 s. It leaves a file there.
func measureDatasync(dir string) (datasyncTime, error) {
	f, err := os.CreateTemp(dir, "datasync-")
	if err != nil {
		return datasyncTime{}, fmt.Errorf("measuring the disk: %w", err)
	}
	defer func() { _ = f.Close() }() // it has nothing to keep
	var took []time.Duration
	page := make([]byte, 4<<10)
	for begin := time.Now(); len(took) < 100 && time.Since(begin) < 3*time.Second; {
		start := time.Now()
		if _, err := f.Write(page); err != nil {
			return datasyncTime{}, fmt.Errorf("measuring the disk: %w", err)
		}
		if err := datasync(f); err != nil {
			return datasyncTime{}, fmt.Errorf("measuring the disk: %w", err)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	return datasyncTime{P50: percentile(took, 50), P99: percentile(took, 99)}, nil
}
