"""Move the gripper in a simulated reach_target; fail if it does not move, or a frame is black or without depth."""

import numpy as np

from mtrl.data.demos import CAMERAS
from mtrl.envs.rlbench.simulator import Simulator

if __name__ == "__main__":
    simulator = Simulator("reach_target", CAMERAS, 128)
    try:
        frame = simulator.reset(seed=1)
        for name in CAMERAS:
            image = frame.images[name]
            if image.rgb.mean() < 5 or image.rgb.std() < 5:
                raise SystemExit(f"{name}: the frame is black or of one colour (mean {image.rgb.mean():.1f}).")
            if image.depth is None or np.ptp(image.depth) < 0.05:
                raise SystemExit(f"{name}: the depth is the same everywhere.")
            print(
                f"{name}: a frame of {image.rgb.shape}, mean {image.rgb.mean():.1f}, depth to {image.depth.max():.2f} m"
            )
        higher = np.append(frame.gripper_pose + np.array([0, 0, 0.05, 0, 0, 0, 0]), 1.0)
        after, _ = simulator.step(higher)
        if after is None or abs(after.gripper_pose[2] - higher[2]) > 0.02:
            raise SystemExit("The gripper did not go to a pose 5 cm higher.")
        demo = simulator.demonstrate(seed=2)
        print(f"The gripper moves; a demonstration of {len(demo)} frames.")
    finally:
        simulator.close()
