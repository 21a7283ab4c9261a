"""The command line: verbs, what they print, and the exit status they end with."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath
from typing import Any

from appliance import __version__
from appliance.clusterverbs import add_cluster_verbs
from appliance.errors import (
    EXIT_INTERNAL,
    EXIT_TEMPORARY,
    OnekeError,
    ParameterProblems,
    SeveralErrors,
)
from appliance.imageverbs import WrongUsage, add_image_verbs

_DESCRIPTION = """\
Turns this OpenNebula VM into a node of a OneKE Kubernetes cluster: reads the VM's context, asks
OneGate for its role, and converges the machine to that role. Running it again is safe and changes
nothing that is as it should be."""

_EPILOG = """\
examples:
  oneke-agent configure                 what happens at every boot
  oneke-agent configure --role vnf      the same by hand, without asking OneGate for the role
  oneke-agent configure --dry-run       show what would change, with differences; change nothing
  oneke-agent validate --context FILE   check a context anywhere, without privileges
  oneke-agent status                    what this node is, and what is missing
  oneke-agent clean --dry-run           on a master: which nodes of the cluster are dead for good
  oneke-agent install --flavor ce       at image build: fetch what the image carries
  oneke-agent check image               whether the image has all that a boot needs
  journalctl -u oneke-agent             the log of the runs at boot

exit status: 0 done; 1 (status only) the node is not well; 64 wrong usage; 70 a bug; 75 try again;
78 a person must correct something"""

_USAGE_ERROR = 64
_FORMATS = (
    *("text", "markdown", "json"),
    *("oneflow", "oneflow-7", "oneflow-values", "vm-template", "marketplace"),
)
_LEAVING_ONEGATE_S = 8.0
"""A shutdown has little time, and none for a OneGate that takes longer."""


class _Parser(argparse.ArgumentParser):
    """Ends with the exit status for wrong usage of sysexits.h."""

    def error(self, message: str) -> Any:
        """Say what is wrong and how it should be."""
        self.print_usage(sys.stderr)
        self.exit(_USAGE_ERROR, f"oneke-agent: {message}\n")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = _Parser(
        prog="oneke-agent",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"oneke-agent {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    configure = _add_verb(verbs, "configure", "converge this machine to its role", _configure)
    configure.add_argument(
        "--dry-run", action="store_true", help="show what would change; change nothing"
    )
    _add_verb(verbs, "plan", "show every action and what it would change", _plan)
    _add_verb(verbs, "validate", "check context and parameters; needs no privileges", _validate)

    backends = _add_verb(
        verbs, "backends", "keep HAProxy's servers as OneGate tells (a daemon)", _backends
    )
    backends.description = (
        "Runs until it is stopped: asks OneGate which servers the service's VMs register, and adds,"
        " drains and deletes them in HAProxy without a reload. SIGHUP reads the parameters anew."
    )

    clean = _add_verb(verbs, "clean", "delete the cluster's nodes whose VMs are gone", _task)
    clean.add_argument(
        "--dry-run", action="store_true", help="show which would be deleted; delete none"
    )
    clean.add_argument(
        "--quiet", action="store_true", help="leave out nodes that are as they should be"
    )
    clean.set_defaults(onegate_timeout_s=None)
    clean.description = (
        "Works on a master that serves. Deletes a node only if it is labelled with its VM, is not"
        " Ready, two complete answers of OneGate in a row know its VM no more, and etcd keeps its"
        " quorum; every node that is kept is shown with the reason."
    )

    leave = _add_verb(verbs, "leave", "take leave, where this VM is being removed", _task)
    leave.add_argument("--dry-run", action="store_true", help="show what would be done; do nothing")
    leave.set_defaults(onegate_timeout_s=_LEAVING_ONEGATE_S, quiet=False)
    leave.description = (
        "Run at every shutdown. Where OneGate says that OneFlow removes this VM, the node withdraws"
        " from the gateways' balancers, its pods go to other nodes, and it is taken out of the"
        " cluster, a master out of etcd too, one at a time and only where quorum survives. A VM"
        " that only reboots keeps its place."
    )

    params = _add_verb(verbs, "params", "list every parameter", _params, context=False)
    params.description = (
        "Lists every parameter. The other formats are for OpenNebula: a service template (oneflow,"
        " or oneflow-7 for version 7 alone), answers to instantiate it with (oneflow-values), the"
        " VM template of a role, and what a marketplace is told."
    )
    params.add_argument("--format", choices=_FORMATS, default="text")
    params.add_argument(
        "--flavor", choices=("ce", "ee"), default="ce", help="of the image that templates name"
    )
    add_cluster_verbs(verbs, _add_verb, _task)
    add_image_verbs(verbs)
    status = _add_verb(verbs, "status", "show what this node is and what is missing", _status)
    status.description = "Shows the node's role, its last run, and what it does right now."
    return parser


def _add_verb(
    verbs: Any, name: str, help_text: str, verb: Callable[..., int], *, context: bool = True
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name, help=help_text, description=f"{help_text[0].upper()}{help_text[1:]}."
    )
    parser.set_defaults(run=verb)
    parser.add_argument(
        "--role", metavar="ROLE", help="the role, instead of asking OneGate: vnf, master, ..."
    )
    if context:
        parser.add_argument(
            "--context",
            metavar="FILE",
            help="a context (one_env or context.sh), instead of this VM's own",
        )
        parser.add_argument("--json", action="store_true", help="print JSON on standard output")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb and return its exit status; errors go to standard error in plain words."""
    arguments = make_parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
    except WrongUsage as error:
        print(f"oneke-agent: {error}", file=sys.stderr)
        return _USAGE_ERROR
    except OnekeError as error:
        _complain(error, as_json=getattr(arguments, "json", False))
        return error.exit_code
    except KeyboardInterrupt:
        print("oneke-agent: interrupted; run it again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except Exception as error:  # the last resort: a bug must end with a status that says so
        import traceback

        traceback.print_exc()
        print(
            f"oneke-agent: a bug in the agent ({type(error).__name__}); please report it",
            file=sys.stderr,
        )
        return EXIT_INTERNAL
    return code


def _complain(error: OnekeError, *, as_json: bool) -> None:
    if as_json:
        problems = error.problems if isinstance(error, ParameterProblems) else ()
        document = {
            "error": str(error),
            "kind": type(error).__name__,
            "hint": error.hint,
            "problems": [asdict(problem) for problem in problems],
        }
        print(json.dumps(document, indent=1))
        return
    if isinstance(error, SeveralErrors):
        for one in error.errors:
            print(f"oneke-agent: {one}", file=sys.stderr)
        for hint in dict.fromkeys(one.hint for one in error.errors if one.hint):
            print(f"hint: {hint}", file=sys.stderr)
        return
    if isinstance(error, ParameterProblems):
        for problem in error.problems:
            print(f"oneke-agent: {problem}", file=sys.stderr)
    else:
        print(f"oneke-agent: {error}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)


def _options(arguments: argparse.Namespace, *, dry_run: bool = False) -> Any:
    from appliance.options import Options

    given = getattr(arguments, "context", None)
    path = PurePosixPath(Path(given).absolute()) if given else None
    return Options(role=arguments.role, context_path=path, dry_run=dry_run)


def _configure(arguments: argparse.Namespace) -> int:
    return _run(arguments, dry_run=arguments.dry_run, unchanged=False)


def _plan(arguments: argparse.Namespace) -> int:
    return _run(arguments, dry_run=True, unchanged=True)


def _run(arguments: argparse.Namespace, *, dry_run: bool, unchanged: bool) -> int:
    from appliance.agent import run
    from appliance.logs import make_logger
    from appliance.system import real_system

    def tell(line: str) -> None:
        if not arguments.json:
            print(line, flush=True)

    result = run(real_system(), _options(arguments, dry_run=dry_run), make_logger(), tell)
    if arguments.json:
        print(json.dumps(_result_document(result, dry_run=dry_run), indent=1))
    else:
        _print_result(result, dry_run=dry_run, unchanged=unchanged)
    return 0


def _result_document(result: Any, *, dry_run: bool) -> dict[str, Any]:
    from appliance.agent import describe_readiness

    return {
        "role": result.role,
        "dry_run": dry_run,
        "changes": result.changes,
        "readiness": describe_readiness(result.readiness),
        "waited_s": result.waited_s,
        "warnings": list(result.warnings),
        "stages": [
            {
                "stage": outcome.stage.value,
                "actions": [
                    {
                        "action": step.action.name,
                        "change": step.change.summary if step.change else None,
                        "detail": step.change.detail if step.change else "",
                    }
                    for step in outcome.steps
                ],
            }
            for outcome in result.outcomes
        ],
    }


def _print_result(result: Any, *, dry_run: bool, unchanged: bool) -> None:
    from appliance.agent import describe_readiness
    from appliance.plan import describe

    for warning in result.warnings:
        print(f"warning: {warning}")
    for outcome in result.outcomes:
        if dry_run and (outcome.changes or unchanged):
            print(f"stage {outcome.stage.value}:")
            for line in describe(outcome.steps, unchanged=unchanged):
                print(f"  {line}")
        elif not dry_run:
            for line in describe(outcome.steps, unchanged=False):
                if not line.startswith(" "):
                    print(line)
    count = f"{result.changes} change{'' if result.changes == 1 else 's'}"
    if dry_run:
        print(f"{count} to make; nothing was changed. Now: {describe_readiness(result.readiness)}")
        if result.changes or describe_readiness(result.readiness) != "ready":
            print("then: wait until the node is ready, and report it")
    else:
        print(f"{result.role}: {count}; {describe_readiness(result.readiness)}")


def _validate(arguments: argparse.Namespace) -> int:
    from appliance.contextfile import gather_context
    from appliance.decision import Fit, decide, find_fit, read_services
    from appliance.registry import known_roles
    from appliance.system import real_system

    options = _options(arguments)
    services = read_services(options)
    context = gather_context(real_system(), options.context_path)
    if arguments.role:
        fit = Fit((decide(arguments.role, context, services),), {})
    else:
        fit = find_fit(context, services, known_roles())
    roles = [decided.role_name for decided in fit.sound]
    warnings = list(dict.fromkeys(line for one in fit.sound for line in one.warnings))
    if arguments.json:
        unfit = {role: [asdict(one) for one in wrong.problems] for role, wrong in fit.unfit.items()}
        document = {"context": context.source, "roles": roles, "warnings": warnings, "unfit": unfit}
        print(json.dumps(document))
        return 0
    for warning in warnings:
        print(f"warning: {warning}")
    for role, wrong in fit.unfit.items():
        for problem in wrong.problems:
            print(f"not for {role}: {problem}")
    print(f"{context.source}: {len(context.values)} variables, sound for {', '.join(roles)}")
    return 0


def _params(arguments: argparse.Namespace) -> int:
    from appliance.decision import read_services
    from appliance.export import FORMATS
    from appliance.imagecontent import Flavor
    from appliance.opennebula import TEMPLATES

    services = read_services(_options(arguments)).values()
    if arguments.format in FORMATS:
        text = FORMATS[arguments.format](services, arguments.role)
    else:
        text = TEMPLATES[arguments.format](services, arguments.role, Flavor(arguments.flavor))
    print(text, end="")
    return 0


def _backends(arguments: argparse.Namespace) -> int:
    from appliance.agent import begin_cycle
    from appliance.daemon import run_daemon
    from appliance.logs import make_logger
    from appliance.system import real_system
    from appliance.system.signals import RealSignals

    system, options, log = real_system(), _options(arguments), make_logger()
    run_daemon(system, RealSignals(), log, lambda: begin_cycle(system, options, "backends", log))
    return 0


def _task(arguments: argparse.Namespace) -> int:
    from appliance.agent import run_task
    from appliance.logs import make_logger
    from appliance.system import real_system

    def tell(line: str) -> None:
        if not arguments.json:
            print(line, flush=True)

    options = _options(arguments, dry_run=arguments.dry_run)
    argument = getattr(arguments, "argument", None) or ""
    options = replace(options, onegate_timeout_s=arguments.onegate_timeout_s, argument=argument)
    task = getattr(arguments, "task", arguments.verb)
    result = run_task(real_system(), options, task, make_logger(), tell)
    if arguments.json:
        print(json.dumps({"dry_run": arguments.dry_run, **asdict(result)}, indent=1))
    elif result.document:
        # It alone goes where output is led to, as into kubectl apply.
        print(result.document, end="")
        for line in result.lines:
            print(f"{line.verdict}: {line.subject}: {line.reason}", file=sys.stderr)
    else:
        _print_task(result, quiet=arguments.quiet)
    return EXIT_TEMPORARY if result.trouble else 0


def _print_task(result: Any, *, quiet: bool) -> None:
    lines = [line for line in result.lines if not (quiet and line.is_usual)]
    verdict_width = max((len(line.verdict) for line in lines), default=0)
    width = max((len(line.subject) for line in lines), default=0)
    for line in lines:
        print(f"{line.verdict:<{verdict_width}}  {line.subject:<{width}}  {line.reason}")
        if line.hint:
            print(f"{'':{verdict_width}}  {'':{width}}  hint: {line.hint}")
    if quiet and not lines:
        print(f"nothing to do: all {len(result.lines)} are as they should be")
    if result.trouble:
        print(f"oneke-agent: {result.trouble}", file=sys.stderr)


def _status(arguments: argparse.Namespace) -> int:
    from appliance.status import describe_node, print_status
    from appliance.system import real_system

    node = describe_node(real_system(), _options(arguments))
    if arguments.json:
        print(json.dumps(node.document(), indent=1))
    else:
        print_status(node, sys.stdout)
    return 0 if node.is_well else 1
