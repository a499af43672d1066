"""A trained bundle in a robot's control loop; here the robot is the table top.

dyslctl profile openvla-oft && dyslctl distill
python examples/policy_loop.py
"""

from dyslctl import load_policy
from dyslctl.plugins import load_suite


def main() -> None:
    suite = load_suite("tabletop_object")
    environment, spec = suite.make(), suite.episodes("test", 1)[0]
    policy = load_policy(method="dysl")  # the current run's

    policy.reset(spec.seed)
    observation, done, score = environment.reset(spec), False, 0
    print(observation.instruction)
    while not done:
        chunk = policy.select_action(observation)
        print(f"{policy.last.layers_run:2d} layers, {policy.last.timings_ms['llm']:5.1f} ms")
        for action in chunk.actions:  # all of them, before the next inference: exits remember what they meant to do
            result = environment.step(action)
            observation, done, score = result.observation, result.done, result.score
            if done:
                break
    print("solved" if score == suite.max_score else "not solved")


if __name__ == "__main__":
    main()
