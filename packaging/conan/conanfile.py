# The checkout that this file lies in, as a Conan 2 package:    conan create packaging/conan -s compiler.cppstd=20
# Consumers use the package's own CMake files: find_package(ftlib), ftlib::ftlib, ftlib::runtime, ftlib::c.
import os
import re

from conan import ConanFile
from conan.tools.build import check_min_cppstd
from conan.tools.cmake import CMake, CMakeDeps, CMakeToolchain, cmake_layout
from conan.tools.files import copy, load


class Ftlib(ConanFile):
    name = "ftlib"
    description = "Fine-tune a transformer inside a C++ program"
    license = "Apache-2.0"
    package_type = "static-library"
    settings = "os", "arch", "compiler", "build_type"
    options = {
        "c_api": [True, False],  # the shared library of the C API too
        "instruction_sets": ["all", "native"],  # native: for the CPU that builds it alone
        "system_dependencies": [True, False],  # Eigen and nlohmann-json as CMake finds them, not Conan's
    }
    default_options = {"c_api": True, "instruction_sets": "all", "system_dependencies": False}

    @property
    def _root(self):
        return os.path.join(self.recipe_folder, "..", "..")

    def set_version(self):
        text = load(self, os.path.join(self._root, "include", "ftlib", "core", "version.hpp"))
        self.version = re.search(r'#define FTLIB_VERSION "(.*)"', text).group(1)

    def export_sources(self):
        for pattern in ("CMakeLists.txt", "LICENSE", "cmake/*", "include/*", "src/*"):
            copy(self, pattern, src=self._root, dst=self.export_sources_folder)

    def layout(self):
        cmake_layout(self)

    def requirements(self):
        if not self.options.system_dependencies:
            self.requires("eigen/[>=3.4.0 <4]", transitive_headers=True)
            self.requires("nlohmann_json/[>=3.10 <4]", transitive_headers=True)

    def validate(self):
        check_min_cppstd(self, 20)

    def generate(self):
        CMakeDeps(self).generate()
        toolchain = CMakeToolchain(self)
        toolchain.cache_variables.update({
            "FTLIB_TESTS": False, "FTLIB_EXAMPLES": False, "FTLIB_RUNTIME": True, "FTLIB_INSTALL": True,
            "FTLIB_C_API": bool(self.options.c_api), "FTLIB_INSTRUCTION_SETS": str(self.options.instruction_sets)})
        toolchain.generate()

    def build(self):
        cmake = CMake(self)
        cmake.configure()
        cmake.build()

    def package(self):
        CMake(self).install()

    def package_info(self):
        self.cpp_info.set_property("cmake_find_mode", "none")  # ftlibConfig.cmake is in the package
        self.cpp_info.builddirs = [os.path.join("lib", "cmake", "ftlib")]
        self.cpp_info.libs = ["ftlib_runtime"]
        self.cpp_info.defines = ["FTLIB_HEADER_ONLY=0"]
        self.cpp_info.system_libs = ["pthread"]
