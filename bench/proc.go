package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of CPU time in /proc: USER_HZ is 100 on every platform that Go has Linux for.
const clockTick = 10 * time.Millisecond

// cpuTime returns the CPU time that a process has used in user and system mode, in steps of clockTick. It counts all
// its threads, those that have ended too.
func cpuTime(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)) //nolint:gosec // A number makes no other path.
	if err != nil {
		return 0, fmt.Errorf("reading CPU time: %w", err)
	}
	return parseCPUTime(string(stat))
}

// parseCPUTime reads the CPU time from the content of /proc/PID/stat.
func parseCPUTime(stat string) (time.Duration, error) {
	// The name of the program, in parentheses, may itself have spaces and parentheses.
	end := strings.LastIndexByte(stat, ')')
	if end < 0 {
		return 0, errors.New("reading CPU time: no program name in /proc/PID/stat")
	}
	const user, system = 14 - 3, 15 - 3 // proc_pid_stat(5) counts from 1; the first after the name is number 3
	fields := strings.Fields(stat[end+1:])
	if len(fields) <= system {
		return 0, fmt.Errorf("reading CPU time: %d fields after the name in /proc/PID/stat", len(fields))
	}
	var ticks uint64
	for _, i := range []int{user, system} {
		n, err := strconv.ParseUint(fields[i], 10, 48)
		if err != nil {
			return 0, fmt.Errorf("reading CPU time: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick, nil
}

// residentBytes returns the memory of a process that is in RAM.
func residentBytes(pid int) (int64, error) {
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, fmt.Errorf("reading resident memory: %w", err)
	}
	pages, err := parseResidentPages(string(statm))
	return pages * int64(os.Getpagesize()), err
}

// parseResidentPages reads the number of resident pages from the content of /proc/PID/statm.
func parseResidentPages(statm string) (int64, error) {
	fields := strings.Fields(statm)
	if len(fields) < 2 {
		return 0, errors.New("reading resident memory: too few fields in /proc/PID/statm")
	}
	pages, err := strconv.ParseInt(fields[1], 10, 48)
	if err != nil {
		return 0, fmt.Errorf("reading resident memory: %w", err)
	}
	return pages, nil
}
