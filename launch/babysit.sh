#!/usr/bin/env bash
# Runs a command again until it is done.
#
#   launch/babysit.sh [OPTION ...] -- COMMAND ...
#
# By its exit code:
#
#   0     done; ends with 0
#   2     what was asked for is wrong: ends with 2
#   75    stopped by SIGTERM and saved: again, as often as it takes
#   126, 127
#         there is no such command: ends with that
#   else  again, until it has ended so --tries times within an hour; then ends
#         with that. So ends, with 69, who has lost another process
#
# On SIGTERM or Ctrl-C it hands a SIGTERM to the command, waits for it and ends
# with its code, without another try (with 75 if it was between two of them).
#
# On several hosts there is one of these on each. A process that is gone is
# noticed by the others after a minute of silence, and they end as well; --wait
# is longer, so that no process comes back to those of before.
#
#   --tries N       how many failures within an hour end it (3)
#   --wait SECONDS  before the next try (150)
#   --hand-on       ends with 75 as well: a scheduler begins it again
#   --record FOLDER leaves its process id there, in pid, and how it ended, in
#                   ended
#   --dry-run       prints the command, and runs nothing
#   --help          prints this
dry_run=''
# shellcheck source=launch/command_line.sh
. "$(dirname "$0")/command_line.sh"
set +e

tries=3 wait=150 hand_on='' record=''
read_options 'tries= wait= hand-on record=' "$@"
require_number tries
case $wait in *[!0-9]*) refuse "--wait must be a number of seconds, not '$wait'" ;; esac
[ "${#COMMAND[@]}" -gt 0 ] || refuse 'the command is missing: -- COMMAND ...'
if [ -n "$dry_run" ]; then
  act "${COMMAND[@]}"
  exit
fi

child='' asked='' early='' interrupted=''
# A second SIGTERM would end it before it has saved: it gets one.
hand_down() {
  interrupted=1
  [ -z "$asked" ] || return
  asked=1
  if [ -n "$child" ]; then kill -TERM "$child" 2> /dev/null; else early=1; fi
}
trap hand_down TERM INT

# Waits for what was begun last, and sets `code`; a signal cuts a wait short.
await() {
  child=$!
  [ -z "$early" ] || kill -TERM "$child" 2> /dev/null
  while :; do
    interrupted=''
    wait "$child"
    code=$?
    [ -n "$interrupted" ] || break
  done
  child=''
}

end() {
  [ -z "$record" ] || {
    echo "$1" > "$record/ended"
    rm -f "$record/pid"
  }
  exit "$1"
}

if [ -n "$record" ]; then
  mkdir -p "$record" || exit "$WRONG"
  rm -f "$record/ended"
  echo $$ > "$record/pid"
fi
failures=()
while :; do
  "${COMMAND[@]}" &
  await
  [ -z "$asked" ] || end "$code"
  case $code in
    0 | "$WRONG" | 126 | 127) end "$code" ;;
    "$GOES_ON") [ -z "$hand_on" ] || end "$code" ;;
    *)
      recent=("$SECONDS")
      for at in ${failures[@]+"${failures[@]}"}; do
        ((SECONDS - at > 3600)) || recent+=("$at")
      done
      failures=("${recent[@]}")
      if ((${#failures[@]} >= tries)); then
        note "ended with $code, the last of $tries tries within an hour"
        end "$code"
      fi
      ;;
  esac
  note "ended with $code ($(date -u +%FT%TZ)); again in $wait s"
  sleep "$wait" &
  await
  [ -z "$asked" ] || end "$GOES_ON"
done
