SELECT k, window_start, COUNT(*) FROM TABLE(HOP(TABLE events, DESCRIPTOR(ts), INTERVAL '1' SECOND, INTERVAL '100' SECOND)) GROUP BY k, window_start, window_end;
