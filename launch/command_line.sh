# shellcheck shell=bash disable=SC2034
# How the scripts of this folder read their options and say what they run. To
# be sourced, with `dry_run` set empty.

set -euo pipefail
LAUNCH=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CALLED=$(basename "$0")
COMMAND=() # the jaxdistill command line, as it was given after --
WRONG=2    # the exit code of jaxdistill and of these scripts for bad input
GOES_ON=75 # that of a run which SIGTERM stopped and which has saved

refuse() {
  printf '%s: %s\n' "$CALLED" "$1" >&2
  exit "$WRONG"
}

note() {
  printf '%s: %s\n' "$CALLED" "$1" >&2
}

# The comment that a script begins with.
print_help() {
  sed -n '2,${/^#/!q;s/^# \{0,1\}//p;}' "$0"
}

# Words as any POSIX shell reads them back, on one line.
quote() {
  local word line='' mark="'\\''"
  for word in "$@"; do
    case $word in
      '' | *[!A-Za-z0-9_@%+=:,./-]*) word="'${word//\'/$mark}'" ;;
    esac
    line="$line${line:+ }$word"
  done
  printf '%s' "$line"
}

# What a wrong word could have been: the choice that takes the fewest letters.
nearest() {
  local wrong=$1 choice found='' least=1000 i j cost above left row next
  shift
  for choice in "$@"; do
    row=()
    for ((j = 0; j <= ${#choice}; j++)); do row[j]=$j; done
    for ((i = 1; i <= ${#wrong}; i++)); do
      next=("$i")
      for ((j = 1; j <= ${#choice}; j++)); do
        cost=1
        [ "${wrong:i-1:1}" != "${choice:j-1:1}" ] || cost=0
        cost=$((row[j - 1] + cost)) above=$((row[j] + 1)) left=$((next[j - 1] + 1))
        next[j]=$cost
        ((above >= next[j])) || next[j]=$above
        ((left >= next[j])) || next[j]=$left
      done
      row=("${next[@]}")
    done
    if ((row[${#choice}] < least)); then
      least=${row[${#choice}]} found=$choice
    fi
  done
  printf '%s' "$found"
}

# Refuses a word that is not among the choices, by the name of what it is.
choose() {
  local what=$1 word=$2 choice
  shift 2
  for choice in "$@"; do [ "$choice" != "$word" ] || return 0; done
  refuse "there is no $what '$word'; the nearest is '$(nearest "$word" "$@")' of $*"
}

# Sets the variable of each option that is given, and COMMAND.
#
#   read_options 'name= spot ...' "$@"
#
# Options with = take a value. What they set has the default beforehand.
read_options() {
  # Underscores, because the options become variables of this shell.
  local _known=$1 _option _names='' _word _name _value _seen=' '
  shift
  for _option in $_known dry-run help; do _names="$_names --${_option%=}"; done
  while (($#)); do
    _word=$1
    shift
    case $_word in
      -h | --help)
        print_help
        exit 0
        ;;
      --)
        COMMAND=("$@")
        return
        ;;
      --*) ;;
      jaxdistill) refuse "-- is missing before 'jaxdistill'" ;;
      *) refuse "'$_word' is not understood; the command line goes after --" ;;
    esac
    _name=${_word%%=*}
    _name=${_name#--}
    case " $_known dry-run " in
      *" $_name= "*)
        if [ "$_word" != "--$_name" ]; then
          _value=${_word#*=}
        else
          (($#)) || refuse "--$_name has no value"
          _value=$1
          shift
        fi
        case $_value in '' | --*) refuse "--$_name has no value" ;; esac
        ;;
      *" $_name "*)
        [ "$_word" = "--$_name" ] || refuse "--$_name takes no value"
        _value=1
        ;;
      *)
        # shellcheck disable=SC2086  # the names are words
        refuse "there is no option '--$_name'; the nearest is '$(nearest "--$_name" $_names)'"
        ;;
    esac
    case $_seen in *" $_name "*) refuse "--$_name is given twice" ;; esac
    _seen="$_seen$_name "
    printf -v "${_name//-/_}" %s "$_value"
  done
}

require() {
  local _name
  for _name in "$@"; do
    [ -n "${!_name}" ] || refuse "--$_name is required"
  done
}

require_number() {
  local _name
  for _name in "$@"; do
    case ${!_name} in
      '' | 0* | *[!0-9]*) refuse "--$_name must be a number from 1 on, not '${!_name}'" ;;
    esac
  done
}

# Whether a verb of jaxdistill runs in several processes.
joins() {
  case $1 in
    train | compare | targets | eval | gap | context | export | chat) ;;
    *) return 1 ;;
  esac
}

# Looks at the jaxdistill command line for what several processes need.
#
#   check_command PROCESSES DISK
#
# DISK: `own` where each host has a disk of its own.
check_command() {
  local processes=$1 disk=$2 word before='' coordinator='' workdir=''
  [ "${#COMMAND[@]}" -gt 0 ] ||
    refuse 'the command line is missing: -- jaxdistill train --config FILE.py ...'
  [ "${COMMAND[0]}" = jaxdistill ] ||
    refuse "after -- comes jaxdistill, not '${COMMAND[0]}'"
  for word in "${COMMAND[@]}"; do
    case $word in --coordinator=*) coordinator=${word#*=} ;; --workdir=*) workdir=${word#*=} ;; esac
    case $before in --coordinator) coordinator=$word ;; --workdir) workdir=$word ;; esac
    before=$word
  done
  joins "${COMMAND[1]:-}" || return 0
  if [ "$processes" -gt 1 ] && [ "$coordinator" != auto ]; then
    refuse "${COMMAND[1]} in $processes processes needs '--coordinator auto', not '$coordinator'"
  fi
  case $disk:$workdir in
    own:*://* | own: | shared:*) ;;
    *) note "note: --workdir $workdir must be a disk that all hosts see and that outlives them; gs://... is" ;;
  esac
}

# Runs a command; in a dry run, prints it.
act() {
  if [ -n "$dry_run" ]; then
    quote "$@"
    echo
  else
    "$@"
  fi
}

# The jaxdistill command line for a shell, for what holds no line breaks.
quote_command() {
  local line
  line=$(quote "${COMMAND[@]}")
  case $line in *$'\n'*) refuse 'a line break in the command line cannot be passed on' ;; esac
  printf '%s' "$line"
}

# A string of YAML, in one line.
text() {
  local word=$1
  word=${word//\\/\\\\}
  word=${word//\"/\\\"}
  word=${word//$'\n'/\\n}
  word=${word//$'\t'/\\t}
  printf '"%s"' "$word"
}

# Prints a file in which a line may end with ${KEY}, with the values of these.
#
#   fill FILE KEY VALUE [KEY VALUE ...]
fill() {
  local file=$1 line i
  shift
  while IFS= read -r line; do
    case $line in
      \#*) continue ;;
      *\$\{[A-Z]*\})
        for ((i = 1; i < $#; i += 2)); do
          case $line in
            *"\${${!i}}")
              line=${line%"\${${!i}}"}
              ((i++))
              line=$line${!i}
              break
              ;;
          esac
        done
        ;;
    esac
    printf '%s\n' "$line"
  done < "$file"
}
