#!/usr/bin/env bash
# Start-up script of every TPU VM host of a job; `scripts/tpu_vm_job.py create` hands it to
# Google. It runs as root at every boot, so each step leaves alone what is done already.
# It installs the project from the job's folder in the bucket and starts training on
# worker 0 as a systemd unit; on a pod it also starts TensorFlow's worker on every host.
set -euo pipefail

# A test puts another root, metadata server and storage here.
ROOT=${RESUMABLE_TF_ROOT:-}
METADATA=${RESUMABLE_TF_METADATA_URL:-http://metadata.google.internal/computeMetadata/v1}
STORAGE=${RESUMABLE_TF_STORAGE_URL:-https://storage.googleapis.com}
HOME_DIR=$ROOT/opt/resumable-tf
UNITS=$ROOT/etc/systemd/system
WORKER_PORT=8470

say() { echo "resumable-tf start-up: $*"; }

die() {
  say "$*" >&2
  exit 1
}

# metadata PATH: prints a value; fails if there is none.
metadata() {
  curl --fail --silent --show-error --retry 5 --header 'Metadata-Flavor: Google' \
    "$METADATA/$1"
}

# fetch NAME: downloads a file of the job. The token goes through standard input: on the
# command line everybody on the host could read it.
fetch() {
  local rest=${JOB#gs://} bucket object token
  bucket=${rest%%/*}
  object=${rest#*/}/$1
  token=$(metadata instance/service-accounts/default/token |
    sed -n 's/.*"access_token" *: *"\([^"]*\)".*/\1/p')
  [[ -n $token ]] || die "the service account gives no token; does the VM have one?"
  echo "header = \"Authorization: Bearer $token\"" |
    curl --config - --fail --silent --show-error --retry 5 --output "$INCOMING/$1" \
      "$STORAGE/storage/v1/b/$bucket/o/${object//\//%2F}?alt=media"
}

# put FILE: makes standard input the contents of FILE, in one step. Remembers in CHANGED
# whether they were others before.
put() {
  local file=$1 mode=$2
  mkdir -p "$(dirname "$file")"
  (umask 077 && cat >"$file.new")
  chmod "$mode" "$file.new"
  if [[ -f $file ]] && cmp --quiet "$file" "$file.new"; then
    rm "$file.new"
  else
    mv "$file.new" "$file"
    CHANGED=yes
  fi
}

ensure_venv() {
  local python
  python=$(command -v python3) || die "there is no python3 on this image"
  "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' ||
    die "$("$python" --version): tensorflow-tpu needs Python 3.10 to 3.12"
  [[ -x $HOME_DIR/venv/bin/python ]] && return
  if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    apt-get -o DPkg::Lock::Timeout=300 update
    apt-get -o DPkg::Lock::Timeout=300 install --yes python3-venv
  fi
  "$python" -m venv "$HOME_DIR/venv"
}

# install_source: the project and all it needs. A stamp is written only when all is done,
# so that what was interrupted is done again.
install_source() {
  local sum pip=("$HOME_DIR/venv/bin/python" -m pip --disable-pip-version-check)
  sum=$(sha256sum <"$INCOMING/source.tar.gz")
  if [[ -f $HOME_DIR/installed && $(<"$HOME_DIR/installed") == "$sum" ]]; then
    say "the project is installed already"
    return
  fi
  # Without a stamp the venv may be without pip, or have a package that is half there.
  [[ -f $HOME_DIR/installed ]] || rm -rf "$HOME_DIR/venv"
  rm -rf "$HOME_DIR/installed" "$HOME_DIR/source"
  mkdir -p "$HOME_DIR/source"
  tar --extract --gzip --no-same-owner --file "$INCOMING/source.tar.gz" \
    --directory "$HOME_DIR/source"
  ensure_venv
  # tensorflow-text and tf-keras ask for the package named tensorflow, which would
  # overwrite tensorflow-tpu: nothing is installed but what the file lists.
  "${pip[@]}" install --no-deps --requirement "$HOME_DIR/source/requirements-tpu.txt"
  "${pip[@]}" install --no-deps --editable "$HOME_DIR/source"
  echo "$sum" >"$HOME_DIR/installed"
  CHANGED=yes
  "$HOME_DIR/venv/bin/python" -m resumable_tf tpu doctor ||
    say "tpu doctor found something, see above"
}

# unit NAME DESCRIPTION COMMAND [EXTRA...]: writes a systemd unit.
unit() {
  local name=$1 description=$2 command=$3 after=network-online.target
  shift 3
  # What is started last is stopped first: training saves while the worker still answers.
  [[ $name == resumable-tf-worker ]] || after+=" resumable-tf-worker.service"
  put "$UNITS/$name.service" 644 <<EOF
[Unit]
Description=$description
After=$after
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart=$command
Environment=HOME=/root PYTHONUNBUFFERED=1
SyslogIdentifier=$name
StandardOutput=journal
StandardError=journal
$(printf '%s\n' "$@")
EOF
}

# start NAME: starts a unit, or starts it again if something has changed.
start() {
  systemctl daemon-reload
  if [[ $CHANGED == yes ]]; then
    systemctl restart --no-block "$1.service"
  else
    systemctl start --no-block "$1.service"
  fi
}

# All hosts of a preempted pod get SIGTERM at once, and training needs them for its last
# save: a worker goes on for 28 s, as long as training may take.
start_worker() {
  local python=/opt/resumable-tf/venv/bin/python
  unit resumable-tf-worker "TensorFlow's worker of a TPU pod" \
    "$python -m resumable_tf.tpu.pod_worker --task-index $INDEX --port $WORKER_PORT" \
    "Restart=always" "RestartSec=5" "KillSignal=SIGTERM" "TimeoutStopSec=30"
  start resumable-tf-worker
}

# Not Restart=always: a run that is finished (0), was called wrongly (2) or crashes again
# and again (70) stays so; one that misses devices or hosts (69) is tried again. Only the
# supervisor gets SIGTERM and passes it on once; a second one would end training
# without a save. 28 s leave a spot VM's 30 s enough for the save.
start_training() {
  put "$HOME_DIR/start.sh" 700 <<'EOF'
#!/usr/bin/env bash
set -euo pipefail
cd /opt/resumable-tf/source
. /opt/resumable-tf/job.env
. /opt/resumable-tf/hosts.env
export PATH=/opt/resumable-tf/venv/bin:$PATH
. /opt/resumable-tf/train.sh
EOF
  unit resumable-tf "Training that continues" /opt/resumable-tf/start.sh \
    "KillMode=mixed" "KillSignal=SIGTERM" "TimeoutStopSec=28" \
    "Restart=on-failure" "RestartSec=30" "RestartPreventExitStatus=2 70" \
    "SuccessExitStatus=75" "RestartForceExitStatus=75"
  start resumable-tf
}

# hosts: prints the addresses of a pod's workers as TensorFlow takes them. The metadata
# have entries such as unknown:unknown:10.0.0.2, in the order of the workers' numbers.
hosts() {
  local entries entry found=
  entries=$(metadata instance/attributes/worker-network-endpoints) || return
  for entry in ${entries//,/ }; do
    [[ ${entry##*:} =~ ^[0-9.]+$ ]] || return
    found+=${found:+,}grpc://${entry##*:}:$WORKER_PORT
  done
  [[ -n $found ]] && echo "export TPU_NAME=$found"
}

CHANGED=no
INCOMING=$(mktemp --directory)
trap 'rm -rf "$INCOMING"' EXIT
JOB=$(metadata instance/attributes/resumable-tf-job) ||
  die "the metadata have no resumable-tf-job; was this VM made by tpu_vm_job.py?"
for name in source.tar.gz job.env train.sh; do fetch "$name"; done
mkdir -p "$HOME_DIR"
install_source
put "$HOME_DIR/job.env" 600 <"$INCOMING/job.env"
put "$HOME_DIR/train.sh" 600 <"$INCOMING/train.sh"
POD_WORKER=$(. "$HOME_DIR/job.env" && echo "$RESUMABLE_TF_POD_WORKER")
INDEX=0
HOSTS=
if [[ $POD_WORKER != none ]]; then
  # No guess: two hosts that take themselves for worker 0 would train twice.
  INDEX=$(metadata instance/attributes/agent-worker-number) ||
    die "a pod's host has no agent-worker-number in its metadata"
  HOSTS=$(hosts) || die "a pod's host has no worker-network-endpoints in its metadata"
fi
put "$HOME_DIR/hosts.env" 600 <<<"$HOSTS"
say "worker $INDEX of $JOB, pod worker: $POD_WORKER"
if [[ $POD_WORKER == own ]]; then start_worker; fi
if [[ $INDEX == 0 ]]; then start_training; fi
say "done"
