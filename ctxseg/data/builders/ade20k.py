"""ADE20K as in the scene parsing benchmark, SceneParse150 (Zhou et al., CVPR 2017): `ADEChallengeData2016.zip` unpacked."""
