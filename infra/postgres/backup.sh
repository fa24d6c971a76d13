#!/bin/sh
# A dump of the database now and each BACKUP_HOURS hours, into BACKUP_FOLDER; the newest BACKUP_KEEP
# stay. `backup.sh once` makes one and ends. A dump has its name when it is whole.
set -eu
cd "$BACKUP_FOLDER"
while :; do
  file=credit_risk-$(date -u +%Y%m%dT%H%M%SZ).dump
  pg_dump --format=custom --file="$file.part" "$DATABASE_URL"
  mv "$file.part" "$file"
  echo "$file: $(wc -c <"$file") bytes"
  ls -t credit_risk-*.dump | tail -n "+$((BACKUP_KEEP + 1))" | while read -r old; do rm "$old"; done
  test "${1:-}" != once || exit 0
  sleep "$((BACKUP_HOURS * 3600))"
done
